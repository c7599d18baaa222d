"""What suits this processor."""
