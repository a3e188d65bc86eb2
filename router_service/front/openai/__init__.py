"""The OpenAI API over HTTP: the same requests as gRPC's, in the words of OpenAI's and vLLM's fields."""
