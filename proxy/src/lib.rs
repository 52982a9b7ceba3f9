//! The public proxy, as a library with a thin main; its modules follow.
