"""Bodies of the OpenAI API and what they become: requests of the gRPC API."""
