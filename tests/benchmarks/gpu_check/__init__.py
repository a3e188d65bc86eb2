"""What `make gpu-check` runs: every kernel against float64, speeds beside the device's limits, and a served model."""
