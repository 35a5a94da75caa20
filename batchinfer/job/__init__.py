"""What is asked: the job file, its models, and the way from YAML to a validated `JobSpec`."""
