"""`validate --learn`: eight rows are learned and answered on the path that a run and its users take, or the cause is."""
