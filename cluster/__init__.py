"""The control plane: configuration, Serve application, command line."""
