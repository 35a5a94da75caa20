"""Where bytes are: five verbs over local disk and fsspec, and the spelling of every path."""
