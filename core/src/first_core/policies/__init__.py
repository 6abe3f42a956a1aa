"""The routing policies that come with the router. They use the plugin surface and nothing else."""
