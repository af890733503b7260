"""Decodes images into views that can run, in whatever thread calls it."""

import time
from collections.abc import Iterator

from registry.errors import BadImage
from service.execution.delivery import Delivery
from service.execution.observer import Observer
from service.execution.queue import Queue, View, is_wanted
from service.execution.work import Answer, Image
from service.tracebacks import drop_tracebacks


class Decoder:
    """Decodes images, makes their views, and queues these to be run."""

    def __init__(
        self, ready: Queue, delivery: Delivery, observer: Observer, together: bool
    ) -> None:
        """`ready` gets the views, `delivery` the errors of bad images; `together`: `decode_one`
        queues all views of an image at once."""
        self._ready = ready
        self._delivery = delivery
        self._observer = observer
        self._together = together

    def decode_one(self, encoded: Queue) -> None:
        """Decodes the most urgent image, if there is one, and queues its views to be run."""
        view = encoded.pop()
        if view and is_wanted(view):
            views = self._decode(view.image)
            if self._together:
                self._add_together(list(views))
            else:
                for one in views:
                    self._ready.add(one)

    def decode_here(self, view: View) -> list[View]:
        """The last view, for the calling thread to run; earlier views are queued for other threads
        as they are made."""
        views: list[View] = []
        for one in self._decode(view.image):
            if views:
                self._ready.add(views.pop(), first=True)
            views.append(one)
        return views

    def _add_together(self, views: list[View]) -> None:
        for view in views:
            view.ready_at = views[-1].ready_at  # decoding the others does not count as queueing
        self._ready.add(*views)

    def _decode(self, image: Image) -> Iterator[View]:
        """The views of an image, as they are made; none if it is bad: then the error is its
        answer."""
        began = image.decode_at = time.perf_counter()
        image.queue_s = waited_s = began - image.work.queued_at
        try:
            for number, pixels in enumerate(image.work.decode(image.index)):
                ended = time.perf_counter()
                image.decode_s += ended - began
                yield View(image, number, pixels[None], ended, waited_s)
                began = time.perf_counter()
        except BadImage as error:
            drop_tracebacks(error)  # they lead to the image, which leads to its answer
            self._delivery.finish([(image, Answer(error=error))])
        except Exception as error:
            image.work.fail(error)
        else:
            if image.work.is_awaited:
                self._observer.decoded(image.decode_s)
