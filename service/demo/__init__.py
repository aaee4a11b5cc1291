"""`heed demo`: the whole loop on an invented company, or on a real handbook."""
