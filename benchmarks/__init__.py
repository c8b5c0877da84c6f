"""What PROFIT keeps and what it costs, measured."""
