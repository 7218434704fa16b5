"""Many runs: a job, an engine that runs it, a file of results."""
