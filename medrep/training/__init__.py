"""What training leaves behind: model folders."""
