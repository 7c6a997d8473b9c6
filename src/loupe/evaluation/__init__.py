"""Methods and images to scores with intervals, and figures."""
