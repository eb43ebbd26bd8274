# Ultralytics comes first: loading it registers the plugin, and that imports the modules of this package whole.
import ultralytics.nn.tasks  # noqa: F401
