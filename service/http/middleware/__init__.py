"""What every request passes before its endpoint, whichever that is."""
