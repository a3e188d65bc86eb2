"""What chat templates are given, of a request's chat."""
