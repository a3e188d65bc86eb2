"""The HTTP API: OpenAI's paths and fields on the path that gRPC takes."""
