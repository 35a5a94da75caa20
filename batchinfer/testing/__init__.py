"""What plug-in authors and our own tests share."""
