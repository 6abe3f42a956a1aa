"""Between the domain's words and the wire's: errors and statuses, messages and value objects."""
