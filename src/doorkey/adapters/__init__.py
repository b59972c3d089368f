"""HTTP stacks. Each module imports core and the stack that it is named after, nothing else."""
