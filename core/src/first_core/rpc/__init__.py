"""The router's services over gRPC and in process: thin files, one per service."""
