"""Responses of the gRPC API as the objects and chunks of the OpenAI API."""
