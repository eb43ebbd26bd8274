"""`python -m yolov12_plugin` is the `yolov12` command."""

from yolov12_plugin.cli import app

app(prog_name="yolov12")
