"""All that is asked of a storage.  This wing has never heard of a client."""
