"""The recipes of docs/ with the programs of others that they are about, in environments of their own."""
