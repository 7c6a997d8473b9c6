"""The demo: a web page that upscales photos."""
