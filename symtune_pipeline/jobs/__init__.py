"""What the jobs share: the file of a job, how one is started anywhere, its ranks, and who is told."""
