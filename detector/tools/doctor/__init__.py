"""`detector doctor`: why is my mAP low?"""
