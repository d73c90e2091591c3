// Browsers start no worker from file://, and the search is one. There it runs in a hidden frame, which hears and answers
// like a worker; the theme would fetch a script for that from elsewhere.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      this.inside = frame.contentWindow;
      const inner = this.inside.document;
      inner.open();
      inner.write("<!doctype html><title>search</title><body></body>");
      inner.close();
      this.inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.ready = new Promise((resolve) => {
        const script = inner.createElement("script");
        script.onload = resolve;
        script.src = url;
        inner.body.appendChild(script);
      });
    }

    postMessage(data) {
      const message = () => new this.inside.MessageEvent("message", { data });
      this.ready.then(() => this.inside.dispatchEvent(message()));
    }
  };
  window.Worker = window.IFrameWorker;
}
