"""What runs in a pod, or as a local subprocess: `python -m tasks <stage> <request.json>`."""
