"""What a drift run leaves behind: JSON, HTML report, Model Explorer overlay."""
