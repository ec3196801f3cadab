"""What a comparison of two files is written as: page, tables, JSON, Markdown and JUnit."""
