//! What pull leaves on disk, whatever happens on the way.
