"""What is found out on a sample before a job runs."""
