"""Devices behind one interface: this machine, Linux boards over ssh, Android over adb."""
