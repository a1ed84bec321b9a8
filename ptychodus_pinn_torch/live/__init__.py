"""Images that grow while a scan is measured: joining frames and positions, sources, the image.

How frames arrive belongs here, and what is shown meanwhile; how an image is made, into
`reconstruction`.
"""
