"""Memory and communication of a step at sizes that are compiled and never allocated."""
