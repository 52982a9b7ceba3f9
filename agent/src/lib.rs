//! The agent of the NAS, as a library with a thin main; its modules follow.
