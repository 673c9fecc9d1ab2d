"""From configurations to values: ZConfig's files and sections, URIs, certificates in files.

Floor 5; knows no command.  `zconfig` makes values of what ``schema.xml`` (a zeo.conf), ``server.xml``,
``component.xml`` (what ``%import zeo_clone`` brings) and ``ssl.xml`` describe; `explain` completes ZConfig's
complaints; `tlsfiles` makes TLS contexts of files; `uri` makes storages of URIs.
"""
