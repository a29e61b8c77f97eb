"""The commands of `embedding-service`, each in a module that is imported when it is run."""
