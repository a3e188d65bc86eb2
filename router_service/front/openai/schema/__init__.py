"""The OpenAPI document of the HTTP server's API."""
