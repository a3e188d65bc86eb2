"""The Open Inference Protocol (KServe v2) for text, as `inference.GRPCInferenceService` beside the Front's own API."""
