FROM python:3.12-slim

RUN useradd --create-home --uid 10001 routeur
WORKDIR /srv/routeur
COPY requirements.txt .
RUN pip install --no-cache-dir --require-hashes -r requirements.txt
COPY --chown=routeur . .
RUN mkdir data && chown routeur data

USER routeur
ENV HOST=0.0.0.0 DATA_DIR=/srv/routeur/data
VOLUME /srv/routeur/data
EXPOSE 7860
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/health', timeout=2)"]
CMD ["python", "app.py", "serve", "--fetch"]
