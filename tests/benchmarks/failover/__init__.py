"""What failures cost a running cluster: streams that never end, and what is done to the processes meanwhile."""
