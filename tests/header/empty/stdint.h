/* Stands in for the system header, so that only our own declarations are left after preprocessing. */
