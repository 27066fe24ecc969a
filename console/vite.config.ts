// How the page is built: everything under /console/, every asset hashed, nothing inline (the hub's CSP forbids it).
import react from '@vitejs/plugin-react';
import { defineConfig } from 'vitest/config';

const hub = process.env.DZVIN_URL ?? 'http://127.0.0.1:8080';

export default defineConfig({
  base: '/console/',
  plugins: [react()],
  build: {
    target: 'es2022',
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 600,
  },
  server: {
    proxy: {
      '/api': { target: hub },
      '/console/login.json': { target: hub },
      '/connection': { target: hub, ws: true },
    },
  },
  test: { environment: 'node', include: ['test/**/*.test.{ts,tsx}'] },
});
