"""Devices that run our agent: Linux machines over ssh, and this one."""
