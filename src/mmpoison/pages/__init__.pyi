from .local_app import LOCAL as LOCAL
from .local_app import create_app as create_app
from .local_app import image_response as image_response
from .local_app import serve as serve
