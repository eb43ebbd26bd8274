"""What works on stock's YOLO12, tried on stock and with the plugin: see capabilities.py."""
