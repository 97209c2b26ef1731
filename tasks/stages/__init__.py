"""One thin file per arrow of the flow: read, do, publish."""
