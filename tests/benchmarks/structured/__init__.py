"""What structured output costs, and which library makes its masks."""
