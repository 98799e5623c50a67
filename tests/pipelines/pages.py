"""HTML pages, read as a browser would."""

from html.parser import HTMLParser

VOID = {"meta", "link", "br", "input", "img"}


class Page(HTMLParser):
    """Collects elements, and complains of tags that are not closed, and of what axe complained of once."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.headers = [], [], []
        self.feed(text)
        assert self.open == []
        assert self.of("html")[0]["lang"]
        assert len(self.of("main")) == len(self.of("h1")) == 1
        assert all(header.strip() for header in self.headers), "a header cell without text: make it a td"
        scrolled = [div for div in self.of("div") if div.get("class") == "scroll"]
        assert all(div.get("tabindex") == "0" and div.get("aria-label") for div in scrolled), (
            "out of a keyboard's reach"
        )

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "th":
            self.headers.append("")

    def handle_data(self, text):
        if "th" in self.open:
            self.headers[-1] += text

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]
