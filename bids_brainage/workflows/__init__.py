"""The app: stages wired into a workflow, run, and told apart by which outputs exist."""
